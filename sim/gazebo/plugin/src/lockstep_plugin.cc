// A Gazebo world plugin that runs the physics only when told to: place cars, or drive them for one
// camera frame and take a picture of what each then sees.
//
// One car model stands in the world. Any number of cars take turns with it: before a car's step its
// state is put back exactly, afterwards it is saved. So cars neither see nor touch each other, a
// car that is not named stands still in time, and what a car does depends on nothing but its own
// commands.
//
// Three threads work on a request:
//   service  takes it from ROS, hands it over, waits, answers, publishes topics;
//   physics  Gazebo's own. Gazebo is never paused: between requests the thread is held at the
//            beginning of an update. Runs the cars of a request one after the other;
//   main     Gazebo's own, the only one that may draw. Takes each car's picture as soon as its
//            step is done, while the physics goes on with the next car.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cmath>
#include <deque>
#include <initializer_list>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <pthread.h>
#include <sched.h>

#include <gazebo/common/Events.hh>
#include <gazebo/common/Plugin.hh>
#include <gazebo/physics/physics.hh>
#include <gazebo/rendering/rendering.hh>
#include <gazebo/sensors/sensors.hh>
#include <gazebo/transport/ConnectionManager.hh>
#include <ros/callback_queue.h>
#include <ros/poll_manager.h>
#include <ros/ros.h>

#include <car_simulator/Place.h>
#include <car_simulator/Step.h>

#include "car.hh"
#include "topics.hh"

namespace car_simulator {

using Clock = std::chrono::steady_clock;

namespace {

constexpr char kCarModel[] = "racecar";
constexpr char kCameraSensor[] = "camera";
// How long the main thread waits for a picture to take before it lets Gazebo do its housekeeping,
// and how long it takes one picture after the other without.
constexpr auto kIdleWait = std::chrono::milliseconds(20);
constexpr auto kBusyWait = std::chrono::milliseconds(200);

double Seconds(Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

// What has to be done for one car of a request, and what came of it.
struct Task {
  uint32_t car = 0;
  bool is_step = false;
  Command command;
  Motion motion;
  double time_s = 0.0;
  ignition::math::Pose3d model_pose;
  std::vector<ignition::math::Pose3d> link_poses;
};

struct Job {
  std::vector<Task> tasks;
  std::vector<uint8_t> pictures;
  size_t num_begun = 0;
  size_t num_drawn = 0;
  std::deque<size_t> to_draw;
  double physics_s = 0.0;
  double picture_s = 0.0;
};

// roscpp's network thread is woken while another thread still writes an answer, and then asks again
// and again whether it may write, too. It must not push aside the one that it waits for: that would
// cost a whole time slice, more than half a step.
void KeepNetworkThreadFromPreempting() {
  ros::PollManager::instance()->addPollThreadListener([] {
    static std::once_flag is_done;
    std::call_once(is_done, [] {
      const sched_param parameters{};
      pthread_setschedparam(pthread_self(), SCHED_BATCH, &parameters);
    });
  });
}

std::string CheckLengths(size_t num_cars, std::initializer_list<size_t> lengths) {
  for (size_t length : lengths) {
    if (length != num_cars) {
      return "every array must have one entry for each of the " + std::to_string(num_cars) +
             " cars, got " + std::to_string(length);
    }
  }
  return "";
}

std::string CheckFinite(std::initializer_list<const std::vector<double> *> arrays) {
  for (const auto *array : arrays) {
    for (double value : *array) {
      if (!std::isfinite(value)) return "numbers must be finite, got " + std::to_string(value);
    }
  }
  return "";
}

std::string FirstProblem(std::initializer_list<std::string> problems) {
  for (const auto &problem : problems) {
    if (!problem.empty()) return problem;
  }
  return "";
}

}  // namespace

class LockstepPlugin : public gazebo::WorldPlugin {
 public:
  ~LockstepPlugin() override {
    Stop();
    if (node_) node_->shutdown();
    if (service_thread_.joinable()) service_thread_.join();
  }

  // The plugin's SDF element sets iterations_per_step and all of CarSettings.
  void Load(gazebo::physics::WorldPtr world, sdf::ElementPtr sdf) override {
    world_ = std::move(world);
    sdf_ = std::move(sdf);
    iterations_per_step_ = Setting<int>("iterations_per_step");
    if (iterations_per_step_ < 1) throw std::runtime_error("iterations_per_step must be >= 1");
    settings_.wheel_torque_nm = Setting<double>("wheel_torque_nm");
    settings_.steering_gain = Setting<double>("steering_gain");
    settings_.steering_rate_radps = Setting<double>("steering_rate_radps");
    // A warm start of the contact solver would carry one step's forces into another car's step.
    world_->Physics()->SetParam("warm_start_factor", 0.0);
    using gazebo::event::Events;
    on_stop_ = Events::ConnectSigInt([this] { Stop(); });
    on_update_ = Events::ConnectWorldUpdateBegin(
        [this](const gazebo::common::UpdateInfo &) { OnUpdateBegin(); });
    on_render_ = Events::ConnectRender([this] { OnRender(); });
  }

 private:
  template <typename T>
  T Setting(const std::string &name) {
    if (!sdf_->HasElement(name)) throw std::runtime_error("the plugin lacks <" + name + ">");
    return sdf_->Get<T>(name);
  }

  void Stop() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      is_stopping_ = true;
    }
    for (auto *changed : {&is_asked_, &is_driven_, &is_drawn_}) changed->notify_all();
  }

  // --- main thread --------------------------------------------------------------------------

  void OnRender() {
    if (!camera_) {
      // Until everything that can be seen is loaded, the physics runs freely.
      if (FindScene()) OpenServices();
      return;
    }
    const auto latest = Clock::now() + kBusyWait;
    std::unique_lock<std::mutex> lock(mutex_);
    while (Clock::now() < latest &&
           is_driven_.wait_for(lock, kIdleWait,
                               [this] { return is_stopping_ || HasPictureToTake(); }) &&
           !is_stopping_) {
      const auto job = job_;
      const size_t index = job->to_draw.front();
      job->to_draw.pop_front();
      lock.unlock();
      const auto begin = Clock::now();
      TakePicture(job->tasks[index], &job->pictures[index * PictureSize()]);
      lock.lock();
      job->picture_s += Seconds(Clock::now() - begin);
      if (++job->num_drawn == job->tasks.size()) is_drawn_.notify_one();
    }
  }

  bool HasPictureToTake() const { return job_ && !job_->to_draw.empty(); }

  bool FindScene() {
    auto model = world_->ModelByName(kCarModel);
    if (!model) return false;
    auto sensor = std::dynamic_pointer_cast<gazebo::sensors::CameraSensor>(
        gazebo::sensors::get_sensor(world_->Name() + "::racecar::chassis::" + kCameraSensor));
    if (!sensor || !sensor->Camera()) return false;
    auto camera = sensor->Camera();
    auto scene = camera->GetScene();
    if (camera->ImageWidth() == 0 || !scene || !scene->GetVisual(kCarModel)) return false;
    if (!AreAllVisualsThere(*scene)) return false;
    car_ = std::make_unique<Car>(world_, model, settings_);
    model_visual_ = scene->GetVisual(kCarModel);
    for (const auto &link : car_->Links()) {
      link_visuals_.push_back(scene->GetVisual(link->GetScopedName()));
    }
    // Gazebo must not draw on its own: one step is one picture.
    sensor->SetActive(false);
    camera_ = camera;
    OpenPicture();
    picture_->getBuffer()->getRenderTarget()->update();  // loads textures and shaders
    return true;
  }

  // Gazebo's own picture takes four samples a pixel and twice as long; the embedded camera takes one.
  void OpenPicture() {
    picture_ = Ogre::TextureManager::getSingleton()
                   .createManual("car_simulator/picture",
                                 Ogre::ResourceGroupManager::DEFAULT_RESOURCE_GROUP_NAME,
                                 Ogre::TEX_TYPE_2D, camera_->ImageWidth(), camera_->ImageHeight(),
                                 0, Ogre::PF_BYTE_RGB, Ogre::TU_RENDERTARGET)
                   .get();
    camera_->SetRenderTarget(picture_->getBuffer()->getRenderTarget());
  }

  // Visuals arrive one by one, some time after the models that they belong to.
  bool AreAllVisualsThere(gazebo::rendering::Scene &scene) const {
    for (const auto &model : world_->Models()) {
      for (const auto &link : model->GetLinks()) {
        if (!scene.GetVisual(link->GetScopedName())) return false;
        auto element = link->GetSDF();
        if (!element->HasElement("visual")) continue;
        for (auto visual = element->GetElement("visual"); visual;
             visual = visual->GetNextElement("visual")) {
          const auto name = link->GetScopedName() + "::" + visual->Get<std::string>("name");
          if (!scene.GetVisual(name)) return false;
        }
      }
    }
    return true;
  }

  void TakePicture(const Task &task, uint8_t *out) {
    // The model first: moving it moves its links with it.
    model_visual_->SetWorldPose(task.model_pose);
    for (size_t i = 0; i < link_visuals_.size(); ++i) {
      link_visuals_[i]->SetWorldPose(task.link_poses[i]);
    }
    const auto buffer = picture_->getBuffer();
    buffer->getRenderTarget()->update();
    buffer->blitToMemory(Ogre::PixelBox(camera_->ImageWidth(), camera_->ImageHeight(), 1,
                                        Ogre::PF_BYTE_RGB, out));
  }

  size_t PictureSize() const { return size_t{3} * camera_->ImageWidth() * camera_->ImageHeight(); }

  // --- physics thread -----------------------------------------------------------------------

  void OnUpdateBegin() {
    if (!is_open_) return;
    if (iterations_left_ > 0 && --iterations_left_ == 0) FinishStep();
    if (iterations_left_ == 0) BeginNextStep();
    if (iterations_left_ > 0) car_->Steer();
  }

  // Does what can be done without physics, and holds the thread until there is a step to run.
  void BeginNextStep() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      is_asked_.wait(lock, [this] {
        return is_stopping_ || (job_ && job_->num_begun < job_->tasks.size());
      });
      if (is_stopping_) return;
      task_ = job_->num_begun++;
      Task &task = job_->tasks[task_];
      car_->Restore(cars_.at(task.car));
      if (task.is_step) {
        car_->SetCommand(task.command);
        iterations_left_ = iterations_per_step_;
        step_begin_ = Clock::now();
        return;
      }
      HandToCamera(task);
    }
  }

  void FinishStep() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (is_stopping_) return;
    Task &task = job_->tasks[task_];
    SavedCar &state = cars_.at(task.car);
    car_->Save(state);
    ++state.steps;
    job_->physics_s += Seconds(Clock::now() - step_begin_);
    HandToCamera(task);
  }

  void HandToCamera(Task &task) {
    task.motion = car_->Measure();
    task.time_s = world_->SimTime().Double();
    task.model_pose = car_->Model()->WorldPose();
    for (const auto &link : car_->Links()) task.link_poses.push_back(link->WorldPose());
    job_->to_draw.push_back(task_);
    is_driven_.notify_one();
  }

  // --- service thread -----------------------------------------------------------------------

  void OpenServices() {
    if (!ros::isInitialized()) {
      int no_arguments = 0;
      // Gazebo handles signals itself.
      ros::init(no_arguments, nullptr, "gazebo", ros::init_options::NoSigintHandler);
    }
    node_ = std::make_unique<ros::NodeHandle>();
    node_->setCallbackQueue(&queue_);
    topics_ = std::make_unique<Topics>(*node_);
    // Gazebo's own topics have nobody to listen, but each physics iteration would wake the thread
    // that sends them, a fifth of the physics' time. What is seen is put where it is without them.
    gazebo::transport::ConnectionManager::Instance()->Stop();
    is_open_ = true;
    KeepNetworkThreadFromPreempting();
    place_service_ = node_->advertiseService("/simulator/place", &LockstepPlugin::OnPlace, this);
    step_service_ = node_->advertiseService("/simulator/step", &LockstepPlugin::OnStep, this);
    service_thread_ = std::thread([this] {
      while (ros::ok() && !is_stopping_) queue_.callAvailable(ros::WallDuration(0.1));
    });
    // Who started Gazebo waits for this line.
    std::cout << "simulator ready" << std::endl;
  }

  bool OnPlace(Place::Request &request, Place::Response &response) {
    const size_t count = request.cars.size();
    response.error = FirstProblem(
        {CheckLengths(count, {request.x.size(), request.y.size(), request.yaw.size(),
                              request.friction_scale.size(), request.seed.size()}),
         CheckFinite({&request.x, &request.y, &request.yaw, &request.friction_scale})});
    if (!response.error.empty()) return true;
    const auto job = std::make_shared<Job>();
    for (size_t i = 0; i < count; ++i) {
      SavedCar state = car_->At(request.x[i], request.y[i], request.yaw[i]);
      state.friction_scale = request.friction_scale[i];
      state.seed = request.seed[i];
      cars_[request.cars[i]] = state;
      Task task;
      task.car = request.cars[i];
      job->tasks.push_back(task);
    }
    if (!Run(job)) return false;
    Answer(*job, response);
    return true;
  }

  bool OnStep(Step::Request &request, Step::Response &response) {
    const size_t count = request.cars.size();
    response.error =
        FirstProblem({CheckLengths(count, {request.steering_rad.size(), request.speed_mps.size()}),
                      CheckFinite({&request.steering_rad, &request.speed_mps})});
    const auto job = std::make_shared<Job>();
    for (size_t i = 0; i < count && response.error.empty(); ++i) {
      Task task;
      task.car = request.cars[i];
      task.is_step = true;
      task.command = {request.steering_rad[i], request.speed_mps[i]};
      if (!cars_.count(task.car)) {
        response.error = "car " + std::to_string(task.car) + " must be placed before it can drive";
      }
      job->tasks.push_back(task);
    }
    if (!response.error.empty()) return true;
    if (!Run(job)) return false;
    response.physics_s = job->physics_s;
    response.picture_s = job->picture_s;
    Answer(*job, response);
    for (const auto &task : job->tasks) topics_->PublishCommand(task.car, task.command);
    return true;
  }

  // Has the other threads do a job; false if Gazebo is about to end. How long to wait for an answer
  // is the caller's to decide.
  bool Run(const std::shared_ptr<Job> &job) {
    std::unique_lock<std::mutex> lock(mutex_);
    job->pictures.resize(job->tasks.size() * PictureSize());
    job_ = job;
    is_asked_.notify_one();
    is_drawn_.wait(lock, [this, &job] {
      return is_stopping_ || job->num_drawn == job->tasks.size();
    });
    if (is_stopping_) return false;
    job_ = nullptr;
    return true;
  }

  template <typename Response>
  void Answer(Job &job, Response &response) {
    for (size_t i = 0; i < job.tasks.size(); ++i) {
      const Task &task = job.tasks[i];
      const Motion &motion = task.motion;
      response.states.emplace_back();
      auto &state = response.states.back();
      state.x = motion.origin.Pos().X();
      state.y = motion.origin.Pos().Y();
      state.z = motion.origin.Pos().Z();
      state.roll = motion.origin.Rot().Roll();
      state.pitch = motion.origin.Rot().Pitch();
      state.yaw = motion.origin.Rot().Yaw();
      state.forward_mps = motion.forward_mps;
      state.leftward_mps = motion.leftward_mps;
      state.yaw_rate_radps = motion.yaw_rate_radps;
      state.steering_rad = motion.steering_rad;
      state.rim_mps = motion.rim_mps;
      topics_->PublishCar(task.car, task.time_s, motion,
                          {&job.pictures[i * PictureSize()], camera_->ImageWidth(),
                           camera_->ImageHeight()});
    }
    if (!job.tasks.empty()) topics_->PublishClock(job.tasks.back().time_s);
    response.pictures = std::move(job.pictures);
  }

  gazebo::physics::WorldPtr world_;
  sdf::ElementPtr sdf_;
  gazebo::event::ConnectionPtr on_stop_, on_update_, on_render_;
  int iterations_per_step_ = 0;
  CarSettings settings_;

  std::unique_ptr<Car> car_;
  gazebo::rendering::CameraPtr camera_;
  Ogre::Texture *picture_ = nullptr;  // Ogre's own; it lives as long as the scene
  gazebo::rendering::VisualPtr model_visual_;
  std::vector<gazebo::rendering::VisualPtr> link_visuals_;

  // Of the physics thread.
  int iterations_left_ = 0;
  size_t task_ = 0;
  Clock::time_point step_begin_;

  // Shared, under the mutex. Only the service thread replaces job_, and never while others work
  // on it.
  std::mutex mutex_;
  // One for each thread that waits: physics, main, service. Each is woken only for its own part.
  std::condition_variable is_asked_, is_driven_, is_drawn_;
  std::shared_ptr<Job> job_;
  std::map<uint32_t, SavedCar> cars_;
  std::atomic<bool> is_stopping_{false};
  std::atomic<bool> is_open_{false};

  std::unique_ptr<ros::NodeHandle> node_;
  ros::CallbackQueue queue_;
  std::unique_ptr<Topics> topics_;
  ros::ServiceServer place_service_, step_service_;
  std::thread service_thread_;
};

GZ_REGISTER_WORLD_PLUGIN(LockstepPlugin)

}  // namespace car_simulator
