#include "topics.hh"

#include <car_simulator/DriveCommand.h>
#include <nav_msgs/Odometry.h>
#include <rosgraph_msgs/Clock.h>
#include <sensor_msgs/Image.h>
#include <sensor_msgs/JointState.h>

namespace car_simulator {

Topics::Topics(ros::NodeHandle &node)
    : node_(node), clock_(node_.advertise<rosgraph_msgs::Clock>("/clock", 10)) {
  Of(0);  // there from the beginning, so that a viewer can be started first
}

Topics::CarTopics &Topics::Of(uint32_t car) {
  auto found = cars_.find(car);
  if (found != cars_.end()) return found->second;
  CarTopics topics;
  topics.name = car == 0 ? "racecar" : "racecar_" + std::to_string(car);
  const std::string prefix = "/" + topics.name + "/";
  topics.picture =
      node_.advertise<sensor_msgs::Image>(prefix + "camera/zed/rgb/image_rect_color", 2);
  topics.odometry = node_.advertise<nav_msgs::Odometry>(prefix + "odom", 10);
  topics.joints = node_.advertise<sensor_msgs::JointState>(prefix + "joint_states", 10);
  topics.command = node_.advertise<DriveCommand>(prefix + "command", 10);
  return cars_.emplace(car, topics).first->second;
}

void Topics::PublishClock(double time_s) {
  if (clock_.getNumSubscribers() == 0) return;
  rosgraph_msgs::Clock message;
  message.clock = ros::Time(time_s);
  clock_.publish(message);
}

void Topics::PublishCommand(uint32_t car, const Command &command) {
  auto &topics = Of(car);
  if (topics.command.getNumSubscribers() == 0) return;
  DriveCommand message;
  message.steering_rad = command.steering_rad;
  message.speed_mps = command.speed_mps;
  topics.command.publish(message);
}

void Topics::PublishCar(uint32_t car, double time_s, const Motion &motion,
                        const Picture &picture) {
  auto &topics = Of(car);
  const ros::Time stamp(time_s);
  if (topics.picture.getNumSubscribers() > 0) {
    sensor_msgs::Image message;
    message.header.stamp = stamp;
    message.header.frame_id = topics.name + "/camera";
    message.width = picture.width;
    message.height = picture.height;
    message.encoding = "rgb8";
    message.step = picture.width * 3;
    message.data.assign(picture.data, picture.data + message.step * picture.height);
    topics.picture.publish(message);
  }
  if (topics.odometry.getNumSubscribers() > 0) {
    nav_msgs::Odometry message;
    message.header.stamp = stamp;
    message.header.frame_id = "world";
    message.child_frame_id = topics.name;
    message.pose.pose.position.x = motion.origin.Pos().X();
    message.pose.pose.position.y = motion.origin.Pos().Y();
    message.pose.pose.position.z = motion.origin.Pos().Z();
    message.pose.pose.orientation.x = motion.origin.Rot().X();
    message.pose.pose.orientation.y = motion.origin.Rot().Y();
    message.pose.pose.orientation.z = motion.origin.Rot().Z();
    message.pose.pose.orientation.w = motion.origin.Rot().W();
    message.twist.twist.linear.x = motion.forward_mps;
    message.twist.twist.linear.y = motion.leftward_mps;
    message.twist.twist.angular.z = motion.yaw_rate_radps;
    topics.odometry.publish(message);
  }
  if (topics.joints.getNumSubscribers() > 0) {
    sensor_msgs::JointState message;
    message.header.stamp = stamp;
    for (size_t i = 0; i < Car::kJointNames.size(); ++i) {
      message.name.push_back(Car::kJointNames[i]);
      message.position.push_back(motion.joint_positions[i]);
      message.velocity.push_back(motion.joint_velocities[i]);
    }
    topics.joints.publish(message);
  }
}

}  // namespace car_simulator
